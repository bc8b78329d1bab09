"""ADIOS2 as a carrier: reader processes that follow one stream each, and our own client as an ADIOS2 writer.

::

    writer (any code)  --SST or BP5-->  reader process  --framed socket-->  learner
    our own client     <---- page: acknowledged, stop, refused ----------   learner

``library`` imports adios2, ``nurse`` forks the reader processes, ``follower`` is one of them, ``stream`` makes steps of
ADIOS2's variables, ``page`` is the way back to our own client, ``writer`` is that client's end, and ``reader`` is the
learner's.
"""

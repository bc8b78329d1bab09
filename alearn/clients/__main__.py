"""Print the folder of the client sources."""

from alearn.clients import folder

print(folder())

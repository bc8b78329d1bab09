from alearn.launcher import LocalLauncher
from alearn.testing.launcher import LauncherConformance


class TestLocalLauncher(LauncherConformance):
    def make_launcher(self, slots):
        return LocalLauncher(slots=slots, oversubscribe=True)

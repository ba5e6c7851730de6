"""On a laptop: what a run has under this name, and does nothing outside one."""

from remoterun.agent.shared.remoterun_log import log as log

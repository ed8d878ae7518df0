"""The vocabulary of a study: architectures, cells, replicates, protocols, spaces and study files.

Beside them are the learners (`learners/`), which decide what an adaptive search measures next, and the surface of failure
rates (`surface/`) that they learn. Nothing here trains anything: `study` does.
"""

from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.errors import MachineError, MisuseError
from search_spaces.protocol import PROTOCOLS, Protocol, protocol_from
from search_spaces.spaces import SPACES, grid
from search_spaces.study_files import StudySpec, study_from, study_from_file

__all__ = [
    "PROTOCOLS",
    "SPACES",
    "Architecture",
    "Cell",
    "MachineError",
    "MisuseError",
    "Protocol",
    "Replicate",
    "Replicates",
    "StudySpec",
    "grid",
    "protocol_from",
    "study_from",
    "study_from_file",
]

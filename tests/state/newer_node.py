# SPDX-License-Identifier: Apache-2.0
"""``tightseal serve`` as a newer version would be: it understands format 2.

Nothing in the product says so to a running node, so a process of its own does. It
looks every second. Arguments: the seconds for which every node must understand before
it raises the state, then those of ``tightseal``.
"""

import sys

from tightseal.cli import main
from tightseal.model import formats
from tightseal.release import nodes
from tightseal.service import membership, probes

VERSION = "9.9.9"

if __name__ == "__main__":
    formats.FORMAT = 2
    nodes.RAISE_AFTER_SECONDS = int(sys.argv[1])
    vars(membership)["__version__"] = VERSION
    vars(probes)["REFRESH_SECONDS"] = 1.0
    sys.exit(main(sys.argv[2:]))

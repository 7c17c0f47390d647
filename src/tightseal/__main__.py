# SPDX-License-Identifier: Apache-2.0
"""``python -m tightseal``: the command line."""

from tightseal.cli import main

raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""What gives the slots of a keyring their keys, one file each."""

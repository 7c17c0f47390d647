# SPDX-License-Identifier: Apache-2.0
"""Hardware bytes to claims; knows no policy, no keys and no sockets."""

# SPDX-License-Identifier: Apache-2.0
"""Intel DCAP quotes (SGX, TDX) to claims."""

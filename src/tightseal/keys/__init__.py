# SPDX-License-Identifier: Apache-2.0
"""Root to key: the KDFs, the labelled chain, key pairs, and the legacy formula."""

# SPDX-License-Identifier: Apache-2.0
"""AMD SEV-SNP: reports, certificates and the verifier that judges them."""

# SPDX-License-Identifier: Apache-2.0
"""The ground: values, words and encodings that every layer shares."""

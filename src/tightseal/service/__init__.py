# SPDX-License-Identifier: Apache-2.0
"""Transports and operations of a provider: HTTP, framed TCP, workers, health."""

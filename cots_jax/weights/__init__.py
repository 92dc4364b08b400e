# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: published files and their names, and folders of ours, trained or exported."""

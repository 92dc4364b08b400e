# SPDX-License-Identifier: Apache-2.0
"""Published weights in: files, the names of each format, and the way into our parameters."""

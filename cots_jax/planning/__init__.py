# SPDX-License-Identifier: Apache-2.0
"""What a run takes on hardware that is not here: its step, compiled ahead of time and read."""

# SPDX-License-Identifier: Apache-2.0
"""A trained model in forms that other programs read: safetensors, StableHLO and ONNX."""

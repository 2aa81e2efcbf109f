"""The device path: pixels go to a GPU as they are stored, and come back as finished bytes.

Everything between is done in PyTorch on the device of the engine: unit conversion, stretch, fill of invalid pixels,
windows, engine, weights, blend, decoding. It runs on a CPU as well, where the tests compare it with the numpy path.
"""

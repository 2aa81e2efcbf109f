"""A fake of TensorRT and of the functions of `torch.cuda` that it needs, for machines without a GPU.

Its plans repeat the first channel three times. Streams queue work and do it on synchronization, as a GPU does:
reading too early returns old values. test_tensorrt.py compares every class, method, argument and enum with the real
bindings.
"""

from __future__ import annotations

import json
import struct
import threading
import weakref
from contextlib import contextmanager
from enum import IntEnum
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx


class World:
    """State of the machine and the library in one test."""

    def __init__(self):
        self.version = "11.4.0.106"
        self.gpu, self.capability = "NVIDIA H100 80GB HBM3", (9, 0)
        self.has_gpu = self.works = self.builds = self.loads = self.captures = self.executes = True
        self.types = ["Float"]
        self.memory = float("inf")
        self.garbage = np.nan
        self.steps, self.stepped = 3, 0
        self.arrays, self.seen, self.captured, self.given, self.replayed = {}, {}, [], [], 0
        self.living, self.streams = [], {}
        self.thread = threading.local()  # holds the current stream


# --------------------------------------------------------------------------------------------- CUDA in PyTorch


class FakeTensor:
    def __init__(self, world, shape, dtype, device):
        self.array = np.full(shape, world.garbage if dtype == np.float32 else 0, dtype)
        self._world = world
        self.on_gpu = device is not None
        world.arrays[self.data_ptr()] = self.array

    def __len__(self):
        return len(self.array)

    def data_ptr(self):
        return self.array.ctypes.data

    def numpy(self):
        assert not self.on_gpu, "PyTorch has no NumPy view of a tensor on the GPU"
        return self.array

    def copy_(self, src, non_blocking=False):
        assert non_blocking
        self._world.thread.stream.put(lambda: np.copyto(self.array, src.array))
        return self


def fake_torch(world):
    """Make a module with the functions of torch that the engine uses."""

    class OutOfMemoryError(RuntimeError):
        pass

    class Stream:
        def __init__(self, device=None):
            self.cuda_stream = len(world.streams) + 1  # 0 is the default stream
            world.streams[self.cuda_stream] = self
            self.queue, self.recording = [], None

        def put(self, work):
            (self.queue if self.recording is None else self.recording).append(work)

        def synchronize(self):
            while self.queue:
                self.queue.pop(0)()

    class Event:
        def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
            self.stream = None

        def record(self, stream=None):
            self.stream = stream

        def synchronize(self):
            self.stream.synchronize()

    class CUDAGraph:
        def __init__(self, keep_graph=False):
            self.works = []

        def replay(self):
            world.replayed += 1
            world.thread.stream.put(lambda: [work() for work in self.works])

    @contextmanager
    def stream(stream):
        world.thread.stream = stream
        try:
            yield
        finally:
            del world.thread.stream

    @contextmanager
    def graph(cuda_graph, pool=None, stream=None, capture_error_mode="global"):
        if not world.captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        stream.recording = cuda_graph.works
        try:
            yield
        finally:
            stream.recording = None
        world.captured.append(len(cuda_graph.works))

    @contextmanager
    def device(device):
        yield

    def empty(*size, dtype=None, device=None, pin_memory=False):
        shape = size[0]
        if device is not None and np.prod(shape) * np.dtype(dtype).itemsize > world.memory:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        assert pin_memory == (device is None), "host memory must be pinned"
        return FakeTensor(world, shape, dtype, device)

    cuda = SimpleNamespace(
        is_available=lambda: world.has_gpu,
        current_device=lambda: 0,
        get_device_name=lambda device=None: world.gpu,
        get_device_capability=lambda device=None: world.capability,
        Stream=Stream,
        Event=Event,
        CUDAGraph=CUDAGraph,
        stream=stream,
        graph=graph,
        device=device,
    )
    return SimpleNamespace(
        __version__="2.13.0+cu130",
        version=SimpleNamespace(cuda="13.0"),
        cuda=cuda,
        float32=np.float32,
        uint8=np.uint8,
        device=lambda type, index: (type, index),
        empty=empty,
        OutOfMemoryError=OutOfMemoryError,
    )


# ----------------------------------------------------------------------------------------------------------- TensorRT


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 0


class BuilderFlag(IntEnum):
    TF32 = 6


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class HardwareCompatibilityLevel(IntEnum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class LayerInformationFormat(IntEnum):
    JSON = 1


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


class IHostMemory:
    def __init__(self, data):
        self._data = data

    def __bytes__(self):  # the real one is a buffer
        return self._data


class ITensor:
    def __init__(self, value, dtype=DataType.FLOAT):
        self.name = value.name
        self.dtype = dtype if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT else DataType.HALF
        self.shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)


class INetworkDefinition:
    def __init__(self, world):
        self._world, self._inputs, self._outputs = world, [], []

    @property
    def num_inputs(self):
        return len(self._inputs)

    @property
    def num_outputs(self):
        return len(self._outputs)

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


class ParserError:
    def __init__(self, index, node):
        self._index, self._node = index, node

    def node(self):
        return self._index

    def node_name(self):
        return self._node.name

    def node_operator(self):
        return self._node.op_type

    def desc(self):
        return "Plugin not found,\nare the plugin name and namespace correct?"


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def parse_from_file(self, model):
        graph = onnx.load(model).graph
        self._errors = [ParserError(k, node) for k, node in enumerate(graph.node) if node.op_type == "NoSuchOp"]
        self._network._inputs = [ITensor(value) for value in graph.input]
        self._network._outputs = [ITensor(value) for value in graph.output]
        return not self._errors


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, world, text):
        self._world = world
        self._held = json.loads(text) if text else {"key": f"{world.version} {world.gpu}", "times": []}

    def combine(self, input_cache, ignore_mismatch):
        if input_cache._held["key"] != self._held["key"] and not ignore_mismatch:
            return False
        self._held["times"] = sorted({*self._held["times"], *input_cache._held["times"]})
        return True

    def serialize(self):
        return IHostMemory(json.dumps(self._held).encode())


class IBuilderConfig:
    def __init__(self, world):
        self._world, self._flags, self._profiles, self._cache = world, {BuilderFlag.TF32}, [], None
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor = None

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self._world.seen[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        try:
            return ITimingCache(self._world, serialized_timing_cache)
        except ValueError:
            return None

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._held["key"] != f"{self._world.version} {self._world.gpu}" and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        self._world, self._logger = logger.world, logger
        if not self._world.works:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags=0):
        self._world.seen["network"] = flags
        return INetworkDefinition(self._world)

    def create_builder_config(self):
        return IBuilderConfig(self._world)

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        world, monitor = self._world, config.progress_monitor
        world.seen["flags"] = set(config._flags)
        world.seen["level"] = config.hardware_compatibility_level
        monitor.phase_start("Building engine", None, world.steps)
        going = True
        for step in range(world.steps):
            world.stepped += 1
            going = going and monitor.step_complete("Building engine", step)
            if not going:
                break
        monitor.phase_finish("Building engine")
        if not going:
            return None
        if not world.builds:
            self._logger.log(ILogger.Severity.ERROR, "[optimizer.cpp] Error Code 10:\nno kernel for node deconv")
            return None
        if config._cache is not None:
            config._cache._held["times"] = sorted({*config._cache._held["times"], *world.types})
        return IHostMemory(plan_of(world, config._profiles[0], config.profiling_verbosity))


def plan_of(world, profile, verbosity=ProfilingVerbosity.DETAILED, tensors=("sar", "optical"), dtype=DataType.FLOAT):
    """Make the bytes of a plan: a real header, then the state of the fake."""
    version = [int(part) for part in world.version.split(".")[:4]]
    header = struct.pack("<II16x4B", 0x74727466, 0, *version)
    layers = [
        {
            "Name": f"conv {k}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "a", "Format/Datatype": name}],
            "Outputs": [{"Name": "b", "Format/Datatype": name}],
        }
        for k, name in enumerate(world.types)
    ]
    if verbosity != ProfilingVerbosity.DETAILED:
        layers = [layer["Name"] for layer in layers]
    held = {"gpu": world.gpu, "profile": profile, "layers": layers, "tensors": tensors, "dtype": dtype}
    return header + json.dumps(held).encode()


class Runtime:
    def __init__(self, logger):
        self._world, self._logger = logger.world, logger
        if not self._world.works:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._world.living.append("runtime")
        weakref.finalize(self, self._world.living.remove, "runtime")

    def deserialize_cuda_engine(self, serialized_engine):
        if self._world.loads is not True:
            self._logger.log(ILogger.Severity.ERROR, str(self._world.loads))
            return None
        return ICudaEngine(self, json.loads(bytes(serialized_engine)[28:]))


class ICudaEngine:
    def __init__(self, runtime, held):
        self._world, self._logger, self._held = runtime._world, runtime._logger, held
        self._runtime = weakref.ref(runtime)
        self._world.living.append("engine")

    def __del__(self):
        assert self._runtime() is not None, "an engine must not outlive its runtime"
        self._world.living.remove("engine")

    @property
    def num_io_tensors(self):
        return len(self._held["tensors"])

    def get_tensor_name(self, index):
        return self._held["tensors"][index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == self._held["tensors"][0] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType(self._held["dtype"])

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        return IExecutionContext(self, strategy)

    def create_engine_inspector(self):
        return EngineInspector(self)


class EngineInspector:
    def __init__(self, engine):
        self._engine, self.execution_context = engine, None

    def get_engine_information(self, format):
        assert self.execution_context._shape, "without shapes the real report contains N/A"
        return json.dumps({"Layers": self._engine._held["layers"]})


class IExecutionContext:
    def __init__(self, engine, strategy):
        self._engine, self._world, self._strategy = engine, engine._world, strategy
        self._shape, self._addresses, self._memory = None, {}, 0

    def set_input_shape(self, name, shape):
        fewest, _, most = self._engine._held["profile"][name]
        if not all(low <= side <= high for low, side, high in zip(fewest, shape, most, strict=True)):
            return False
        self._shape = tuple(shape)
        return True

    def infer_shapes(self):
        return [] if self._shape else ["sar"]

    def get_tensor_shape(self, name):
        return self._shape if name == "sar" else (self._shape[0], 3, *self._shape[2:])

    def update_device_memory_size_for_shapes(self):
        return 4 * int(np.prod(self._shape))

    def set_device_memory(self, memory, size):
        assert self._world.arrays[memory].nbytes == size
        self._memory = size

    def set_tensor_address(self, name, memory):
        self._addresses[name] = self._world.arrays[memory]
        return True

    def execute_async_v3(self, stream_handle):
        world, shape = self._world, self._shape
        if not world.executes:
            self._engine._logger.log(ILogger.Severity.ERROR, "Cask convolution execution failed")
            return False
        assert stream_handle, "the default stream"
        assert self._strategy != ExecutionContextAllocationStrategy.USER_MANAGED or self._memory
        sar, optical = self._addresses["sar"], self._addresses["optical"]
        assert sar.shape == shape

        def work():
            world.given.append(sar.copy())
            np.copyto(optical, np.repeat(sar[:, :1], 3, axis=1))

        world.streams[stream_handle].put(work)
        return True


CLASSES = {
    name: value
    for name, value in vars().copy().items()
    if isinstance(value, type) and value.__module__ == __name__ and name not in ("World", "FakeTensor")
}
"""Fakes of TensorRT's classes, by name."""


class FakeModule(ModuleType):
    """Type of the fake module, so that tests can detect one that was left behind."""


def fake_tensorrt(world):
    """Make the module, for `sys.modules`."""
    module = FakeModule("tensorrt")
    logger = type("ILogger", (ILogger,), {"world": world})  # every object is created with a logger
    vars(module).update(CLASSES, ILogger=logger, __version__=world.version)
    return module

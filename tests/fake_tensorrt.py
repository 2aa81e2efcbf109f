"""A stand-in for TensorRT, and for running TensorRT for RTX, on machines without a GPU.

Networks, parser, profiles, configuration and builds are those of TensorRT for RTX, which needs no GPU for them. The
rest is made here: timing caches, the inspector, loading, and runs on the CPU's memory that repeat the first channel
three times.
test_tensorrt_api.py compares every class, method and argument with the real bindings.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import weakref
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

try:
    import tensorrt_rtx as real
except ImportError:  # tests that need it are skipped
    real = None


class World:
    """State of the machine and the library in one test."""

    def __init__(self, library="tensorrt"):
        self.library = library
        self.version = "11.4.0.106" if library == "tensorrt" else real.__version__
        self.gpu, self.capability = "NVIDIA H100 80GB HBM3", (9, 0)
        if library == "tensorrt_rtx":
            self.gpu, self.capability = "NVIDIA RTX A5000", (8, 6)
        self.works = self.executes = self.loads = True
        self.types = ["Float"]
        self.most = float("inf")  # windows that fit the memory
        self.tensors, self.dtype = ("sar", "optical"), real and real.DataType.FLOAT
        self.profiles, self.seen, self.given, self.living = {}, {}, [], []
        self.compiled, self.cached = 0, b""
        self.waiting = lambda: None  # called by each run

    def start(self, kind):
        if not self.works:
            raise TypeError(f"{kind}: factory function returned nullptr")


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
        return json.dumps(self._held).encode()


class IBuilderConfig:
    """The real configuration, with a timing cache that needs no GPU."""

    def __init__(self, world, inner):
        vars(self).update(_world=world, _real=inner, _profiles=[], _cache=None, _level=None)

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        if name == "hardware_compatibility_level":  # TensorRT for RTX ignores it
            self._level = value
        elif name.startswith("_"):
            vars(self)[name] = value
        else:
            setattr(self._real, name, value)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile.get_shape("sar"))
        return self._real.add_optimization_profile(profile)

    def set_memory_pool_limit(self, pool, pool_size):
        self._world.seen[pool.name] = pool_size

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
    """The real builder; its plans get the header of the stand-in's library."""

    def __init__(self, logger):
        self._world = logger.world
        self._world.start("Builder")
        self._real = real.Builder(logger)

    def create_network(self, flags=0):
        self._world.seen["network"] = flags
        return self._real.create_network(flags)

    def create_builder_config(self):
        return IBuilderConfig(self._world, self._real.create_builder_config())

    def create_optimization_profile(self):
        return self._real.create_optimization_profile()

    def build_serialized_network(self, network, config):
        world = self._world
        world.seen["TF32"] = config.get_flag(real.BuilderFlag.TF32)
        world.seen["level"] = config._level
        made = self._real.build_serialized_network(network, config._real)
        if made is None:
            return None
        if config._cache is not None:
            config._cache._held["times"] = sorted({*config._cache._held["times"], *world.types})
        plan = bytes(made)
        if world.library == "tensorrt":
            plan = struct.pack("<4s20x4B", b"ftrt", *map(int, world.version.split("."))) + plan[28:]
        world.profiles[hashlib.sha256(plan).digest()] = config._profiles
        return plan


class Runtime:
    def __init__(self, logger):
        self._world, self._logger = logger.world, logger
        self._world.start("Runtime")
        self._world.living.append("runtime")
        weakref.finalize(self, self._world.living.remove, "runtime")

    def deserialize_cuda_engine(self, serialized_engine):
        if self._world.loads is not True:
            self._logger.log(real.ILogger.Severity.ERROR, str(self._world.loads))
            return None
        return ICudaEngine(self, self._world.profiles[hashlib.sha256(serialized_engine).digest()])


class ICudaEngine:
    def __init__(self, runtime, profiles):
        self._world, self._logger, self._profiles = runtime._world, runtime._logger, profiles
        self._runtime = weakref.ref(runtime)
        self._world.living.append("engine")

    def __del__(self):
        assert self._runtime() is not None, "an engine must not outlive its runtime"
        self._world.living.remove("engine")

    @property
    def num_io_tensors(self):
        return len(self._world.tensors)

    def get_tensor_name(self, index):
        return self._world.tensors[index]

    def get_tensor_mode(self, name):
        return real.TensorIOMode.INPUT if name == self._world.tensors[0] else real.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._world.dtype

    def create_execution_context(self, strategy=None):
        return IExecutionContext(self, getattr(strategy, "_strategy", strategy))

    def create_engine_inspector(self):
        return EngineInspector(self)

    def create_runtime_config(self):
        return IRuntimeConfig(self._world)


class IRuntimeConfig:
    def __init__(self, world):
        self._world, self._strategy, self._cache = world, None, None
        self.cuda_graph_strategy = self.dynamic_shapes_kernel_specialization_strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy

    def create_runtime_cache(self):
        return IRuntimeCache(self._world)

    def set_runtime_cache(self, cache=None):
        self._cache = cache
        return True


class IRuntimeCache:
    def __init__(self, world):
        self._world = world
        world.cached = b""

    def deserialize(self, blob):
        if not blob.startswith(b"kernels"):
            return False
        self._world.cached = blob
        return True

    def serialize(self):
        return self._world.cached


class EngineInspector:
    def __init__(self, engine):
        self._engine, self.execution_context = engine, None

    def get_engine_information(self, format):
        assert self.execution_context._shape, "without shapes the real report contains N/A"
        layers = [
            {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": name}], "Outputs": []}
            for name in self._engine._world.types
        ]
        return json.dumps({"Layers": layers})


class IExecutionContext:
    def __init__(self, engine, strategy):
        self._engine, self._world, self._strategy = engine, engine._world, strategy
        self._shape, self._profile, self._addresses, self._memory = None, 0, {}, 0

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._profile = profile_index
        return True

    def set_input_shape(self, name, shape):
        fewest, _, most = self._engine._profiles[self._profile]
        if not all(low <= side <= high for low, side, high in zip(fewest, shape, most, strict=True)):
            return False
        self._shape = tuple(shape)
        return True

    def infer_shapes(self):
        return [] if self._shape else ["sar"]

    def get_tensor_shape(self, name):
        return self._shape if name == "sar" else (self._shape[0], 3, *self._shape[2:])

    def update_device_memory_size_for_shapes(self):
        if self._shape[0] > self._world.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate a lot")
        return 4 * int(np.prod(self._shape))

    def set_device_memory(self, memory, size):
        self._memory = size

    def set_tensor_address(self, name, memory):
        shape = self.get_tensor_shape(name)
        held = (ctypes.c_float * int(np.prod(shape))).from_address(memory)
        self._addresses[name] = np.ctypeslib.as_array(held).reshape(shape)
        return True

    def execute_async_v3(self, stream_handle):
        world = self._world
        if not world.executes:
            self._engine._logger.log(real.ILogger.Severity.ERROR, "Cask convolution execution failed")
            return False
        assert self._strategy == real.ExecutionContextAllocationStrategy.USER_MANAGED
        assert self._memory == self.update_device_memory_size_for_shapes()
        if not world.cached.endswith(b"all"):
            world.compiled, world.cached = world.compiled + 1, b"kernels: all"
        sar, optical = self._addresses["sar"], self._addresses["optical"]
        world.waiting()
        world.given.append(sar.copy())
        np.copyto(optical, np.repeat(sar[:, :1], 3, axis=1))
        return True


CLASSES = {
    name: value
    for name, value in vars().copy().items()
    if isinstance(value, type) and value.__module__ == __name__ and name != "World"
}
"""Classes of the stand-in, by name."""


class FakeModule(ModuleType):
    """Type of the fake module, so that tests can detect one that was left behind."""


def fake_library(world):
    """Make the module `tensorrt` or `tensorrt_rtx`, for `sys.modules`."""
    module = FakeModule(world.library)
    module.__spec__ = ModuleSpec(world.library, None)
    vars(module).update({name: value for name, value in vars(real).items() if not name.startswith("__")})
    logger = type("ILogger", (real.ILogger,), {"world": world})  # every object is created with a logger
    vars(module).update(CLASSES, ILogger=logger, __version__=world.version)
    return module

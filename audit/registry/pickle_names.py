"""What a pickle may import: the pairs that ``torch.load(weights_only=True)`` permits, and those known to run code."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CPU_AND_CUDA_STORAGES = {
    "BFloat16Storage": 2,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
    "ShortStorage": 2,
}

STORAGE_ITEMSIZE: dict[tuple[str, str], int] = {
    **{("torch", name): size for name, size in _CPU_AND_CUDA_STORAGES.items()},
    **{("torch.cuda", name): size for name, size in _CPU_AND_CUDA_STORAGES.items()},
    ("torch", "QInt32Storage"): 4,
    ("torch", "QInt8Storage"): 1,
    ("torch", "QUInt8Storage"): 1,
    ("torch", "QUInt4x2Storage"): 1,
    ("torch", "QUInt2x4Storage"): 1,
    ("torch.storage", "UntypedStorage"): 1,
}
"""Bytes per element of each storage type that a persistent id may name."""

_DENSE_TENSORS = _names("BFloat16 Bool Byte Char Double Float Half Int Long Short")
_SPARSE_TENSORS = _names("BFloat16 Byte Char Double Float Half Int Long Short")
_DTYPES = _names("""
    bfloat16 bool float16 float32 float64 complex32 complex64 complex128
    float4_e2m1fn_x2 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    int1 int2 int3 int4 int5 int6 int7 int8 int16 int32 int64
    uint1 uint2 uint3 uint4 uint5 uint6 uint7 uint8 uint16 uint32 uint64
    bits1x8 bits2x4 bits4x2 bits8 bits16 qint8 qint32 quint8 quint2x4 quint4x2
    per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine per_tensor_symmetric
""")
_REBUILD = _names("""
    _rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy _rebuild_meta_tensor_no_storage
    _rebuild_nested_tensor _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor
    _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_wrapper_subclass
""")

WEIGHTS_ONLY_GLOBALS: frozenset[tuple[str, str]] = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        ("_codecs", "encode"),
        ("builtins", "bytearray"),
        ("builtins", "complex"),
        ("builtins", "set"),
        # protocol 2, which torch.save writes, spells builtins in the way of Python 2; torch maps it back
        ("__builtin__", "bytearray"),
        ("__builtin__", "complex"),
        ("__builtin__", "set"),
        ("torch", "Size"),
        ("torch", "Tensor"),
        ("torch", "device"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.serialization", "_get_layout"),
        *STORAGE_ITEMSIZE,
        *(("torch", name) for name in _DTYPES),
        *(("torch._utils", name) for name in _REBUILD),
        *((module, f"{name}Tensor") for module in ("torch", "torch.cuda") for name in _DENSE_TENSORS),
        *((module, f"{name}Tensor") for module in ("torch.sparse", "torch.cuda.sparse") for name in _SPARSE_TENSORS),
    }
)
"""The imports of a torch state dict. A test holds this to be no wider than torch's own unpickler."""

WEIGHTS_ONLY_OPCODES: frozenset[str] = _names("""
    PROTO STOP MARK GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3
    NONE NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE
    SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1
    """)
"""The opcodes that torch's weights-only unpickler implements."""

_WHOLE_MODULES = _names("""
    os posix nt subprocess commands popen2 pty socket ssl urllib.request http.client ftplib smtplib telnetlib
    socketserver xmlrpc.client asyncio.subprocess asyncio.unix_events multiprocessing.util
    importlib importlib.util importlib._bootstrap imp runpy pkgutil zipimport code codeop bdb pdb cProfile profile
    trace timeit doctest ctypes _ctypes cffi pickle _pickle cPickle cloudpickle cloudpickle.cloudpickle dill dill._dill
    marshal shelve shutil tempfile webbrowser antigravity signal sys _posixsubprocess site sysconfig venv ensurepip
    pip pip._internal pydoc idlelib.pyshell lib2to3.pgen2.pgen logging.config gc inspect threading _thread
    """)

_EXACT: dict[str, frozenset[str]] = {
    "builtins": _names(
        "eval exec compile open __import__ getattr setattr delattr hasattr vars globals locals dir input breakpoint "
        "map filter apply execfile file type object.__getattribute__ __build_class__ memoryview"
    ),
    "operator": _names("attrgetter itemgetter methodcaller call"),
    "functools": _names("partial partialmethod reduce cached_property singledispatch"),
    "types": _names("CodeType FunctionType LambdaType MethodType DynamicClassAttribute"),
    "copyreg": _names("add_extension __newobj__ __newobj_ex__ pickle constructor"),
    "pathlib": _names("Path PosixPath"),
    "io": _names("open FileIO open_code"),
    "_io": _names("open FileIO open_code"),
    "platform": _names("popen _syscmd_ver"),
    "uuid": _names("_get_command_stdout _popen"),
    "linecache": _names("getline getlines updatecache"),
    "numpy": _names("load fromfile memmap savetxt loadtxt genfromtxt"),
    "numpy.testing._private.utils": _names("runstring"),
    "numpy.f2py": _names("compile run_main"),
    "numpy.f2py.crackfortran": _names("getlincoef myeval param_eval _eval_length"),
    "numpy.f2py.diagnose": _names("run_command"),
    "joblib": _names("load"),
    "joblib.numpy_pickle": _names("load"),
    "joblib._parallel_backends": _names("LokyBackend"),
    "pandas": _names("read_pickle eval"),
    "pandas.core.computation.eval": _names("eval"),
    "pandas.io.pickle": _names("read_pickle"),
    "sympy": _names("sympify S lambdify parse_expr"),
    "sympy.core.sympify": _names("sympify"),
    "sympy.parsing.sympy_parser": _names("parse_expr eval_expr"),
    "torch": _names("load compile"),
    "torch.serialization": _names("load"),
    "torch.storage": _names("_load_from_bytes"),
    "torch.hub": _names("load load_state_dict_from_url"),
    "torch.jit": _names("load script"),
    "torch.jit._serialization": _names("load"),
    "torch.utils.cpp_extension": _names("load load_inline"),
    "torch.utils._config_module": _names("load_config"),
    "torch.utils.collect_env": _names("run run_and_read_all get_pip_packages"),
    "torch.utils.bottleneck.__main__": _names("run_cprofile run_autograd_prof"),
    "torch.utils.data.datapipes.utils.decoder": _names("basichandlers"),
    "torch._dynamo.guards": _names("GuardBuilder.get"),
    "torch.fx.experimental.symbolic_shapes": _names("ShapeEnv.evaluate_guards_expression"),
    "torch.fx.graph_module": _names("reduce_graph_module reduce_package_graph_module"),
    "torch.fx._graph_pickler": _names("GraphPickler.loads"),
    "torch.package": _names("PackageImporter"),
    "torch._inductor.codecache": _names("compile_file"),
    "torch.export": _names("load"),
}


def runs_code(module: str, name: str) -> bool:
    """Whether (module, name) is known to run code, open files or reach further names when a pickle calls it.

    A name that is not known is not thereby harmless: outside ``WEIGHTS_ONLY_GLOBALS`` every import needs trust.
    """
    as_python_3 = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return any(_listed(*pair) for pair in {(module, name), as_python_3})


def _listed(module: str, name: str) -> bool:
    if module in _WHOLE_MODULES or name in _EXACT.get(module, frozenset()):
        return True
    # a dotted name walks attributes: "path.os.system" reaches os.system from any module that imports os
    walked = name.split(".")[:-1]
    return any(part in _WHOLE_MODULES or part.startswith("__") for part in walked)

"""Build the compiled rotation where there is a C compiler; torch rotates elsewhere."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "rope_core._rotary",
            ["rope_core/_rotary.c"],
            # a product and a sum are rounded apart unless the code says fma
            extra_compile_args=["-O3", "-ffp-contract=off", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

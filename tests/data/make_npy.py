#!/usr/bin/env python3
"""Make the .npy files beside this file, as NumPy itself writes them: python3 make_npy.py"""
import os

import numpy as np

os.chdir(os.path.dirname(os.path.abspath(__file__)))
x = (np.arange(24, dtype="<f4").reshape(2, 3, 4) - 11.5) / 8  # exact in float32

np.save("float32_3d.npy", x)
np.save("float32_1d.npy", x.reshape(24))
np.save("float32_0d.npy", np.float32(-1.5))
np.save("float32_empty.npy", np.zeros((2, 0, 4), "<f4"))
np.save("float64.npy", x.astype("<f8"))
np.save("big_endian.npy", x.astype(">f4"))
np.save("int32.npy", np.arange(24, dtype="<i4").reshape(2, 3, 4))
np.save("fortran.npy", np.asfortranarray(x))
for version in (2, 3):
    with open(f"float32_v{version}.npy", "wb") as file:
        np.lib.format.write_array(file, x, version=(version, 0))

whole = open("float32_3d.npy", "rb").read()
open("truncated_data.npy", "wb").write(whole[:-4])
open("truncated_header.npy", "wb").write(whole[:60])
open("truncated_magic.npy", "wb").write(whole[:5])
open("too_long.npy", "wb").write(whole + b"\0")
open("no_magic.npy", "wb").write(b"PK\x03\x04" + whole[4:])
open("bad_header.npy", "wb").write(whole.replace(b"'shape': (2, 3, 4)", b"'shape': (2, -3, 4"))

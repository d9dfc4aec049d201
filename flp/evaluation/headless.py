"""Rendering without a display: MuJoCo draws through EGL or OSMesa, whichever works on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from flp.system.errors import FLPError

BACKENDS = ("egl", "osmesa")
PACKAGES = "libegl1 libgl1-mesa-dri (or libosmesa6)"
# Run in its own process: a partly installed library may crash, and a failed import cannot be retried.
_DRAW = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"


def choose_renderer() -> str:
    """Choose MuJoCo's renderer before it is imported: the one in MUJOCO_GL, or the first that works.

    Raises:
        FLPError: none works; the message names the Debian packages.
    """
    requested = os.environ.get("MUJOCO_GL")
    for backend in (requested,) if requested else BACKENDS:
        if works(backend):
            os.environ["MUJOCO_GL"] = backend
            import mujoco  # noqa: F401  (now: environments import it without a renderer)

            return backend
    tried = f"MUJOCO_GL={requested} does not work" if requested else "neither EGL nor OSMesa works"
    raise FLPError(f"cannot draw without a screen: {tried} here; on Debian and Ubuntu, apt-get install {PACKAGES}")


def works(backend: str) -> bool:
    """Whether MuJoCo can draw with this value of MUJOCO_GL."""
    environment = os.environ | {"MUJOCO_GL": backend}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _DRAW], env=environment, capture_output=True)
    return done.returncode == 0

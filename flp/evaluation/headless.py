"""OpenGL without a screen: MuJoCo draws through EGL or OSMesa, whichever works on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from flp.system.errors import FLPError

BACKENDS = ("egl", "osmesa")
PACKAGES = "libegl1 libgl1-mesa-dri (or libosmesa6)"
# In a process of its own: a library that is half there may crash, and a failed import cannot be tried anew.
_DRAW = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"


def choose_renderer() -> str:
    """Tell MuJoCo, which must not have been imported yet, how to draw: as MUJOCO_GL says, or with what works.

    Raises:
        FLPError: nothing works; the message names the Debian packages.
    """
    asked = os.environ.get("MUJOCO_GL")
    for backend in (asked,) if asked else BACKENDS:
        if works(backend):
            os.environ["MUJOCO_GL"] = backend
            import mujoco  # noqa: F401  (now, for environments import it without a renderer)

            return backend
    tried = f"MUJOCO_GL={asked} does not work" if asked else "neither EGL nor OSMesa works"
    raise FLPError(f"cannot draw without a screen: {tried} here; on Debian and Ubuntu, apt-get install {PACKAGES}")


def works(backend: str) -> bool:
    """Whether MuJoCo can draw with this value of MUJOCO_GL."""
    environment = os.environ | {"MUJOCO_GL": backend}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _DRAW], env=environment, capture_output=True)
    return done.returncode == 0

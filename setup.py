"""Puts the weights of pretrained/ into the wheel, as evalkit/pretrained/shipped. All else is in setup.cfg."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithWeights(build_py):
    """Copies pretrained/ after the package's own files; an editable install reads it where it lies."""

    def run(self) -> None:
        super().run()
        if Path("pretrained").is_dir() and not self.editable_mode:
            copytree("pretrained", Path(self.build_lib) / "evalkit/pretrained/shipped", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithWeights})

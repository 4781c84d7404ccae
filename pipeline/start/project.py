"""The files of a new project, git and DVC; and whether an older one is behind the package."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from pipeline.artifacts import atomic_write_text
from pipeline.config import PARAMS, parse_params, profiles
from pipeline.config.yaml import round_trip
from pipeline.dependencies.graph import GRAPH, plain, stamped
from pipeline.dependencies.watch import INSTALLED, keep_watch
from pipeline.system.project import refuse_place

SHIPPED = (GRAPH, ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", "prefect.yaml")
README = "README.md"


def make_project(folder: Path, params: str, readme: str, more: Sequence[str] = ()) -> list[str]:
    """Write the files of a project, and set up git and DVC where they are not yet.

    Args:
        folder: made where it does not exist; other files in it stay as they are.
        params: text of params.yaml.
        readme: text of README.md.
        more: files in the folder that belong to it too.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: a project is there already, or a file of the same name.
        HapoError: git is not there or refuses.
    """
    checked = parse_params(round_trip().load(params), where=f"{folder / PARAMS}")
    files = {name: stamped(name) for name in SHIPPED} | {str(PARAMS): params, README: readme}
    if README in _present(folder, [README]):
        files["README-hapo.md"] = files.pop(README)
    there = _present(folder, files)
    if there:
        raise ConfigError(
            f"there is already {', '.join(there)}",
            where=str(folder.absolute()),
            remedy="choose another folder; a project that is one stays as it is (`hapo run`), and "
            "`hapo init DIR --upgrade` brings its dvc.yaml up to the installed version",
        )
    refuse_place(folder)
    _need_git()
    for name, text in files.items():
        atomic_write_text(folder / name, text)
    keep_watch(checked, folder)
    # Experiments run in copies that hold what git knows: the links to the installed packages too.
    links = [p.relative_to(folder).as_posix() for p in (folder / INSTALLED).glob("*")]
    done = [f"project {folder.absolute()}: {', '.join(sorted(files))}"]
    done += _commit(folder, sorted([*files, *links, *more]), "A project of hapo")
    return done


def _present(folder: Path, names: Sequence[str] | dict[str, str]) -> list[str]:
    return [name for name in names if (folder / name).exists()]


def upgrade(folder: Path) -> list[str]:
    """Bring the files of a project up to the installed version; params.yaml stays.

    Returns:
        What was done, in words. What was edited by hand is kept beside as `NAME.backup`.
    """
    from pipeline.config import load_params

    done = []
    for name in SHIPPED:
        place, fresh = folder / name, stamped(name)
        if place.is_file() and plain(name, place.read_text(encoding="utf-8")) == plain(name, fresh):
            continue
        if place.is_file():
            backup = place.with_name(f"{place.name}.backup")
            backup.write_bytes(place.read_bytes())
            done.append(f"{name} is new; the old one is kept as {backup.name}")
        else:
            done.append(f"{name} is new")
        atomic_write_text(place, fresh)
    keep_watch(load_params(folder / PARAMS), folder)
    return done or ["nothing to change"]


# --- git ------------------------------------------------------------------------------------------


def _need_git() -> None:
    try:
        subprocess.run(["git", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HapoError(
            "git does not run here, and DVC's experiments need it",
            where="git --version",
            remedy="install git (Debian: apt-get install git)",
        ) from error


def _commit(folder: Path, files: Sequence[str], message: str) -> list[str]:
    inside = _git(folder, "rev-parse", "--is-inside-work-tree").returncode == 0
    done = []
    if not inside:
        _checked(folder, "init", "--quiet")
        done.append("git: a new repository")
    _checked(folder, "add", "--force", "--", *files)
    words = ["commit", "--quiet", "--message", message, "--", *files]
    if not _git(folder, "config", "user.email").stdout.strip():
        words = ["-c", "user.name=hapo", "-c", "user.email=hapo@localhost", *words]
        done.append("git: no user.email is set; this commit is by hapo@localhost")
    _checked(folder, *words)
    return done


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)


def _checked(folder: Path, *words: str) -> None:
    done = _git(folder, *words)
    if done.returncode != 0:
        raise HapoError(
            f"`git {words[0]}` failed: {(done.stderr or done.stdout).strip()}",
            where=str(folder.absolute()),
            remedy="mend that, then repeat the command in an empty folder",
        )


# --- words ----------------------------------------------------------------------------------------


def profile_text(name: str) -> str:
    """A shipped profile.

    Raises:
        ConfigError: there is none of that name.
    """
    place = profiles.place_of(name)
    if not place.is_file():
        raise ConfigError(
            f"no profile {name!r}",
            where="--profile",
            remedy="one of " + ", ".join(profiles.names()),
        )
    return place.read_text(encoding="utf-8")


def readme_text(name: str, about: str) -> str:
    """The project's own README."""
    return f"""# {name}

{about}

| to | do |
|---|---|
| run what is not up to date, or go on after a kill | `hapo run` |
| see what would run, and whether it can | `hapo run --dry-run` |
| see what ran and how far it is | `hapo status` |
| read the result | `reports/report.html`, `hapo samples`, `hapo audit` |
| train longer | `hapo segments 2 --rounds 20`, then `hapo run` |
| compare with a run without a teacher | `hapo compare --methods hapo grpo --seeds 0` |
| change something | params.yaml, or `hapo run -S method=grpo` |

The configuration is params.yaml (`hapo profile list` shows the shipped ones). Results lie in
`artifacts/` and `reports/`; DVC keeps them, git keeps `dvc.lock`, `deps/` and params.yaml: commit
these after a run. After an upgrade of the package: `hapo status` says which stages its changes
touch, `hapo init . --upgrade` takes its dvc.yaml.
"""

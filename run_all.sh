#!/usr/bin/env bash
# Sets up .venv if needed, then runs the notebooks in order and draws every figure again: ./run_all.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools/environment.sh"

if ! is_ready; then
    base=$(find_python)
    # A mistyped option should not cost the newcomer an installation: the parser needs only the standard library.
    "$base" "$root/tools/run_notebooks.py" --check "$@"
    case " $* " in *" --help "* | *" -h "*) exit ;; esac
    install_environment "$base"
fi
exec "$python" "$root/tools/run_notebooks.py" "$@"

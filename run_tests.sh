#!/usr/bin/env bash
# Sets up .venv if needed, then runs every test (ruff's among them). Arguments go to pytest: ./run_tests.sh -k timing
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools/environment.sh"

if ! is_ready; then
    base=$(find_python)
    install_environment "$base"
fi
cd "$root"
exec "$python" -m pytest "$@"

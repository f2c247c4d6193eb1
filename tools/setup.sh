#!/bin/sh
# Set-up that the Makefile's targets need.
#   setup.sh venv PYTHON FOLDER     make a virtual environment with PYTHON
#   setup.sh packages NAME ...      install Debian packages that are not there yet
set -eu

say() { printf '%s\n' "$*" >&2; }

# Install Debian packages as root or with passwordless sudo; else say what is missing.
install() {
    if [ "$(id -u)" = 0 ]; then
        as=""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as="sudo"
    else
        say "Missing: $*"
        say "Install it and run make again:  sudo apt-get install --no-install-recommends $*"
        exit 1
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        say "Missing: $*. This machine has no apt-get; install it by hand and run make again."
        exit 1
    fi
    say "Installing $*"
    # The tests start their servers themselves: RUNLEVEL=1 lets no package start its own.
    get="$as env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get"
    $get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 || {
        $get update -q >/dev/null
        $get install -y -q --no-install-recommends "$@" >/dev/null
    }
    case " $* " in
    *" xrdp "*) $as systemctl disable -q xrdp xrdp-sesman >/dev/null 2>&1 || true ;;
    esac
}

case "$1" in
venv)
    python=$2
    folder=$3
    if [ -z "$python" ]; then
        install python3 python3-venv
        python=python3
    fi
    if [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1
    then
        exit 0
    fi
    "$python" -c 'import ensurepip' 2>/dev/null || install python3-venv
    rm -rf "$folder"
    "$python" -m venv "$folder"
    ;;
packages)
    shift
    missing=""
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q ' installed' ||
            missing="$missing $name"
    done
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || install $missing
    # The lab downloads a kernel with apt-get: that needs the package lists.
    if [ "$(id -u)" = 0 ] && ! apt-cache show linux-image-amd64 >/dev/null 2>&1; then
        apt-get update -q >/dev/null
    fi
    ;;
*)
    say "usage: setup.sh venv PYTHON FOLDER | packages NAME ..."
    exit 2
    ;;
esac

#!/bin/sh
# Install the package into a virtual environment; whatever prevents it is told in one line with what to do.
#   sh scripts/install.sh VENV REQUIREMENT MEGABYTES
# PYTHON names the interpreter. MEGABYTES must be free on the disk; they are only asked for while torch is not there.
set -u
venv=$1
requirement=$2
megabytes=$3
python=${PYTHON:-python3}
own=$venv/bin/python
log=$venv/install.log

fail() {
  echo "error: $*" >&2
  exit 1
}

check_python() {
  command -v "$1" > /dev/null 2>&1 || fail "there is no $1: install Python 3.10 or later, or name it: PYTHON=/path/to/python3 make ..."
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || fail "$1 does not run: name another Python: PYTHON=/path/to/python3 make ..."
  if [ "${version%%.*}" -lt 3 ] || { [ "${version%%.*}" -eq 3 ] && [ "${version#*.}" -lt 10 ]; }; then
    fail "$1 is Python $version, and 3.10 or later is needed: $2"
  fi
}

check_disk() {
  [ "$(uname)" = Linux ] || return 0 # the size is that of Linux; elsewhere it is smaller
  set -- "$venv"/lib/python*/site-packages/torch
  [ -d "$1" ] && return 0
  free=$(($(df -Pk "$venv" | awk 'NR == 2 { print $4 }') * 1024 / 1000000))
  [ "$free" -ge "$megabytes" ] ||
    fail "$free MB are free on the disk of $venv, and $megabytes MB are needed: free some, put it on another disk (make VENV=/path/to/venv), or install CPU builds of torch and torchvision into $venv first"
}

make_venv() {
  "$own" -m pip --version > /dev/null 2>&1 && return 0
  said=$("$python" -m venv "$venv" 2>&1) && return 0
  case $said in
    *"No space left"*) fail "the disk of $venv is full: free some space, or put it on another disk: make VENV=/path/to/venv" ;;
    *ensurepip*) fail "$python cannot make virtual environments: install its package for that (Debian, Ubuntu: apt install python3-venv)" ;;
    *) fail "$python -m venv $venv: $(echo "$said" | tail -n 1)" ;;
  esac
}

check_network() {
  # the build needs this small package in any case; pip's own settings for proxies and mirrors hold for it
  folder=$(mktemp -d 2> /dev/null) || fail "no temporary folder: free some space in ${TMPDIR:-/tmp}, or name another: TMPDIR=/path make ..."
  said=$("$own" -m pip download --quiet --disable-pip-version-check --no-deps --retries 0 --timeout 15 --dest "$folder" "hatchling>=1.26" 2>&1)
  status=$?
  rm -rf "$folder"
  case $status,$said in
    0,*) ;;
    *"No space left"*) fail "the disk of ${TMPDIR:-/tmp} is full: free some space, or name another: TMPDIR=/path make ..." ;;
    *) fail "pip reaches no package index ($(echo "$said" | tail -n 1)): connect to the network, or name a proxy or a mirror (HTTPS_PROXY=..., PIP_INDEX_URL=...)" ;;
  esac
}

why_pip_failed() {
  # retries that succeeded are in the log as well: only its last lines tell what ended the installation
  tail -n 40 "$log" > "$log.end" 2> /dev/null && mv "$log.end" "$log"
  if grep -qE "No space left|Errno 28" "$log" 2> /dev/null; then
    fail "the disk is full: free some space for $venv and ${TMPDIR:-/tmp} (or name others: make VENV=/path, TMPDIR=/path), and run the command again"
  elif grep -qE "ConnectionError|Connection broken|NewConnectionError|ConnectTimeout|ReadTimeout|IncompleteRead" "$log" 2> /dev/null; then
    fail "the connection was lost: run the same command again; what was downloaded whole is kept"
  fi
  fail "pip could not install the package; what it said is above and in $log"
}

if [ -x "$own" ]; then
  check_python "$own" "remove the folder $venv, and run the command again with a newer python3"
else
  check_python "$python" "install it, or name it: PYTHON=/path/to/python3 make ..."
fi
mkdir -p "$venv" 2> /dev/null || fail "$venv cannot be made: name a folder that can be written: make VENV=/path/to/venv"
check_disk
make_venv
check_network
rm -f "$log"
"$own" -m pip install --disable-pip-version-check --log "$log" --editable "$requirement" || why_pip_failed
rm -f "$log"

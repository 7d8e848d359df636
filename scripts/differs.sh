#!/usr/bin/env bash
# Lists the packages of the module of which the given system (GOOS) compiles other files than Linux,
# tests included: only there can a check find what it did not find for Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
files() { GOOS=$1 "${GO:-go}" list -f '{{.ImportPath}} {{.GoFiles}} {{.TestGoFiles}} {{.XTestGoFiles}}' ./...; }
comm -13 <(files linux | sort) <(files "$1" | sort) | cut -d' ' -f1

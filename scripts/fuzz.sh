#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each: fuzz.sh [30s]
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
go=${GO:-go}
found=0

# go test fuzzes one target of one package at a time.
while IFS=: read -r file func; do
	found=$((found + 1))
	echo "fuzz ${file%/*} $func for $time"
	"$go" test -run '^$' -fuzz "^$func\$" -fuzztime "$time" "./${file%/*}"
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . |
	sed -E 's/^\.\///; s/:func /:/' | sort)
echo "$found fuzz targets passed"

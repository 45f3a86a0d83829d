#!/usr/bin/env bash
# eng/abi.sh            writes abi/layouts/linux-7.3.txt from the kernel headers
# eng/abi.sh --check    compares instead; differences fail
#
# The headers are those of a pinned linux-libc-dev, fetched from the Debian mirror this machine already uses (or MIRROR)
# by an apt with its own lists, and unpacked below .cache/: nothing is installed. A second run needs no network.
set -euo pipefail
export LC_ALL=C

version='7.3.4-1~bpo13+1'
series=7.3

root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache/abi
package=$cache/linux-libc-dev_$version
table=$root/abi/layouts/linux-$series.txt
headers=(linux/iommufd.h linux/vfio.h linux/userfaultfd.h linux/fs.h asm-generic/errno-base.h asm-generic/errno.h)

fail() { echo "abi: $1; $2" >&2; exit "${3:-1}"; }
needs() { command -v "$1" >/dev/null || fail "there is no $1 here" "install it ($2), or run this on a Debian machine"; }
. "$root/eng/debian.sh"

check=
case "$#:${1:-}" in
    0:) ;;
    1:--check) check=yes ;;
    *) fail "unknown arguments: $*" "use eng/abi.sh or eng/abi.sh --check" 64 ;;
esac
[ -z "$check" ] || [ -e "$table" ] || fail "there is no $table to compare with" "run eng/abi.sh without --check first"
needs gcc 'package gcc'

fetch() {
    needs apt-get 'Debian and its derivatives have it'
    needs dpkg-deb 'package dpkg'
    mkdir -p "$cache"
    debian_open
    (cd "$cache" && debian_apt apt-get -qq download "linux-libc-dev=$version") >"$cache/apt/log" 2>&1 ||
        fail "the mirror no longer has linux-libc-dev $version" \
             "set version in eng/abi.sh to one of: $(debian_apt apt-cache madison linux-libc-dev |
                 awk -F'|' '{ gsub(/ /, "", $2); printf "%s ", $2 }')"
    rm -rf "$package.part"
    dpkg-deb -x "$cache/linux-libc-dev_${version}"_*.deb "$package.part" ||
        fail "the downloaded package does not unpack" "delete $cache and run again"
    mv "$package.part" "$package"
}

[ -d "$package" ] || fetch
include=$package/usr/include
[ -e "$include/linux/iommufd.h" ] || fail "$package has no linux/iommufd.h" "delete $cache and run again"

# Before the system's folders: every kernel header comes from the package, only the C library from the machine.
gcc -Wall -Wextra -Werror -I "$include" -I "$include/x86_64-linux-gnu" "$root/abi/probe.c" -o "$cache/probe" ||
    fail "abi/probe.c does not compile against linux-libc-dev $version" "correct the names that gcc reports above"
{
    echo "# linux-libc-dev $version, x86-64. Written by eng/abi.sh; do not edit."
    "$cache/probe"
} >"$cache/table" || fail "the compiled probe does not run" "this needs a machine that runs what its own gcc builds"

# Everything the headers declare is either in the table or left out for a stated reason.
declared() {
    local header text prefix='(IOMMU|VFIO|UFFD|USERFAULTFD|PAGE_IS_|PM_SCAN_|PAGEMAP_SCAN)'
    for header in "${headers[@]}"; do
        text=$(gcc -fpreprocessed -dD -E -P "$include/$header")
        case $header in
            asm-generic/*) sed -nE 's/^#define (E[A-Z0-9]+) .*/\1/p' <<<"$text"; continue ;;
            linux/fs.h) ;;
            *) sed -nE 's/^struct (\w+) \{.*/struct:\1/p' <<<"$text" ;;
        esac
        grep -oE "^\s*(#define )?_*${prefix}\w*" <<<"$text" | grep -oE '\w+$'
    done
}
awk '$1 == "struct" { print "struct:" $2 } $1 == "const" { print $2 }' "$cache/table" | sort -u >"$cache/known"
mapfile -t patterns < <(awk 'NF && $1 !~ /^#/ { print $1 }' "$root/abi/left-out.txt")
missing=()
while read -r name; do
    for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053  # the right side is a pattern
        [[ $name != $pattern ]] || continue 2
    done
    missing+=("$name")
done < <(declared | sort -u | comm -23 - "$cache/known")
[ "${#missing[@]}" = 0 ] || fail "the headers declare what nobody mentions: ${missing[*]}" \
    "add each to abi/probe.c and Tidemark.Abi, or to abi/left-out.txt with a reason"

if [ -n "$check" ]; then
    diff -u "$table" "$cache/table" >"$cache/diff" || {
        head -n 40 "$cache/diff" >&2
        fail "$table differs from linux-libc-dev $version" "run eng/abi.sh and review what changed"
    }
    echo "abi: $table agrees with linux-libc-dev $version"
else
    mkdir -p "$(dirname "$table")"
    cp "$cache/table" "$table"
    echo "abi: wrote $table ($(($(wc -l <"$table") - 1)) facts, linux-libc-dev $version)"
fi

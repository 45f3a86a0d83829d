# Sourced by lab/run and eng/abi.sh: packages of newer Debian releases, fetched and unpacked below $cache, never
# installed. The sourcing script brings say MESSAGE and fail CAUSE REMEDY.
#
# The apt here has its own lists and an empty status file, so that it believes nothing is installed and brings each
# package with all it needs, down to libc. It reads the mirror that the machine's own apt uses, or $MIRROR.

debian_needs() { # PACKAGE... installs those of this machine's own release that are missing
    local missing=() package
    for package; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    [ "$(id -u)" = 0 ] ||
        fail "these packages are missing: ${missing[*]}" "install them with apt-get, or run this once as root"
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >"$cache/apt-host.log" 2>&1 ||
        fail "apt-get could not install ${missing[*]} ($(tail -n 1 "$cache/apt-host.log"))" \
             "see $cache/apt-host.log, and check the network"
}

debian_apt() { # runs an apt command with lists and status of the lab's own
    APT_CONFIG=$cache/apt/apt.conf "$@"
}

debian_open() { # prepares that apt, once in a run
    [ -z "${debian_opened:-}" ] || return 0
    debian_opened=yes
    local apt=$cache/apt mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed= suite
    mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 -E '/debian/?$' || true)}
    mirror=${mirror:-http://deb.debian.org/debian}
    [ ! -e "$keyring" ] || signed="[signed-by=$keyring] "

    mkdir -p "$apt"/{lists/partial,archives/partial,preferences.d}
    : >"$apt/status"
    for suite in trixie trixie-backports; do
        echo "deb $signed$mirror $suite main"
    done >"$apt/sources.list"
    echo "deb-src $signed$mirror trixie main" >>"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "-";
Dir::Etc::PreferencesParts "$apt/preferences.d";
Dir::State "$apt";
Dir::State::Lists "$apt/lists";
Dir::State::Status "$apt/status";
Dir::Cache "$apt";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Debug::NoLocking "true";
CONF
    debian_apt apt-get -qq update >"$apt/log" 2>&1 ||
        fail "apt can not read trixie from $mirror ($(grep -m1 '^[WE]:' "$apt/log" || echo 'no message'))" \
             "check the network and the keyring $keyring, or set MIRROR to a Debian mirror"
}

debian_unpack() { # FOLDER PACKAGE...: fetches each package, without what it depends on, and unpacks it there
    local into=$1 package deb work
    shift
    debian_open
    work=$(mktemp -d "$cache/deb.XXXXXX")
    for package; do
        (cd "$work" && debian_apt apt-get -qq download "$package") >"$cache/apt/log" 2>&1 ||
            fail "can not download $package ($(tail -n 1 "$cache/apt/log"))" "check the network, or set MIRROR"
    done
    mkdir -p "$into"
    for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$into"; done
    rm -rf "$work"
}

debian_unpack_whole() { # FOLDER SUITE PACKAGE...: with everything that each depends on
    local into=$1 suite=$2 deb
    shift 2
    debian_open
    rm -f "$cache"/apt/archives/*.deb
    debian_apt apt-get -qq install -y --download-only -t "$suite" "$@" >"$cache/apt/log" 2>&1 ||
        fail "can not download $* from $suite ($(tail -n 1 "$cache/apt/log"))" "check the network, or set MIRROR"
    mkdir -p "$into"
    for deb in "$cache"/apt/archives/*.deb; do dpkg-deb -x "$deb" "$into"; done
    rm -f "$cache"/apt/archives/*.deb
}

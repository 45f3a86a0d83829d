# Sourced by lab/run: what each NAME does.

may_fetch() { # WHAT is about to be fetched or built
    [ -n "$fetch" ] || fail "$1 is not in the cache $cache" "run ./lab/run prepare, or leave out --no-fetch"
}

lab_program() { # builds tidemark for the guest: compiled ahead of time, because compiling on emulated CPUs takes long
    local out=$root/artifacts/lab/program log=$root/artifacts/lab/build.log
    mkdir -p "$root/artifacts/lab"
    if [ -e "$out/tidemark.dll" ] && [ -z "$(find "$root/src" "$root/Directory.Build.props" "$root/Directory.Packages.props" \
        -newer "$out/tidemark.dll" \( -name '*.cs' -o -name '*.csproj' -o -name '*.props' \) -print -quit)" ]; then
        return
    fi
    say "building tidemark for the guest"
    rm -rf "$out"
    # Files of its own, so that neither the lock files nor the build of ./tidemark change.
    lab_publish "$root/src/Tidemark.Cli" "$out" >"$log" 2>&1 ||
        fail "tidemark did not build ($(grep -m1 error "$log" || tail -n 1 "$log"))" "see $log"
}

lab_publish() { # PROJECT FOLDER
    dotnet publish "$1" -c Release -r linux-x64 --self-contained false -p:PublishReadyToRun=true -p:RunAnalyzers=false \
        -p:EnforceCodeStyleInBuild=false -p:TidemarkLockFolder="$root/artifacts/lab/locks" -p:DebugType=none \
        -p:GenerateDocumentationFile=false -p:CompilesAhead=false -v quiet --artifacts-path "$root/artifacts/lab/build" -o "$2"
}

lab_folder() { # NAME: an empty folder for a run's results, with the program
    local folder=$root/artifacts/lab/$1
    rm -rf "$folder"
    mkdir -p "$folder/program"
    cp -r "$root/artifacts/lab/program/." "$folder/program/"
    echo "$folder"
}

lab_script() { # FOLDER: standard input becomes what the guest runs
    {
        echo '#!/bin/sh'
        echo 'export DOTNET_TieredPGO=0 DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 TMPDIR=/tmp HOME=/root'
        echo 'tidemark() { /usr/share/dotnet/dotnet /host/program/tidemark.dll "$@"; }'
        echo 'lab-devices >/host/devices.txt 2>&1 || { cat /host/devices.txt; exit 97; }'
        echo '. /host/environment'
        cat
    } >"$1/run.sh"
    chmod +x "$1/run.sh"
}

# The devices that a profile's cases may use, as options.
device_options='$(for device in $LAB_NVME $LAB_MTTY; do printf -- "--device %s " "$device"; done)'

lab_conform() { # NAME PROFILE FILTER: the cases in the guest, then the same ones on the soft kernel
    local folder status began=$SECONDS
    lab_program
    folder=$(lab_folder "$1")
    lab_script "$folder" <<SCRIPT
tidemark conform --kernel linux $device_options ${3:+--filter '$3'} --json >/host/linux.json 2>/host/errors.txt
SCRIPT
    guest_run "$2" "$folder" >"$folder/console.txt" 2>&1
    status=$?
    case $status in 0 | 1 | 3) ;; *) tail -n 15 "$folder/console.txt" "$folder/errors.txt" >&2; return $status ;; esac
    "$root/tidemark" conform --kernel soft --profile "$2" --against "$folder/linux.json" ${3:+--filter "$3"}
    status=$?
    say "profile $2: $((SECONDS - began)) s; $folder"
    return $status
}

lab_dispatch() { # NAME
    local profile_name worst=0
    case $1 in
        prepare)
            exec 9>"$cache/lock"
            flock 9
            kernel_make && qemu_stock_make && qemu_patched_make && guest_image ;;
        conform) lab_conform conform "${profile:-vtd-dirty}" "$filter" ;;
        legacy) lab_conform legacy legacy "${filter:-legacy}" ;;
        mock | mtty | none | virtio | vtd | vtd-sm | vtd-fs | vtd-dirty | amd | amd-dirty) lab_conform "$1" "$1" "$filter" ;;
        all)
            for profile_name in $profiles; do
                "$lab/run" "$profile_name" ${fetch:---no-fetch} || worst=1
            done
            return $worst ;;
        demo) lab_demo ;;
        two-guests) lab_two_guests ;;
        machines | updates) lab_machines "$1" ;;
        tests) lab_tests ;;
        record) lab_record ;;
        run) lab_command ;;
        script) lab_file ;;
        *) fail "there is no run \"$1\"" "./lab/run --help lists them" 64 ;;
    esac
}

lab_command() { # any tidemark command
    local folder status quoted
    [ ${#command[@]} -gt 0 ] || command=(check)
    lab_program
    folder=$(lab_folder run)
    quoted=$(printf '%q ' "${command[@]}")
    lab_script "$folder" <<<"tidemark $quoted"
    guest_run "${profile:-vtd-dirty}" "$folder" 2>&1 | tee "$folder/console.txt"
    status=${PIPESTATUS[0]}
    return "$status"
}

lab_file() { # a shell script of the caller's
    local folder
    [ ${#command[@]} -eq 1 ] && [ -r "${command[0]}" ] || fail "script takes one readable file after --" "see ./lab/run --help" 64
    lab_program
    folder=$(lab_folder script)
    lab_script "$folder" <"${command[0]}"
    guest_run "${profile:-vtd-dirty}" "$folder" 2>&1 | tee "$folder/console.txt"
    return "${PIPESTATUS[0]}"
}

# The test programs that say something else on a kernel with iommufd than on one without.
linux_side='Kernel Machine'

lab_tests() {
    local folder status test
    mkdir -p "$root/artifacts/lab"
    lab_program
    folder=$(lab_folder tests)
    cp -r "$root/docs" "$folder/docs" # tests compare them with the program
    for test in $linux_side; do
        say "building the tests of $test for the guest"
        lab_publish "$root/tests/Tidemark.$test.Tests" "$folder/$test" >"$root/artifacts/lab/build.log" 2>&1 ||
            fail "the tests of $test did not build ($(grep -m1 error "$root/artifacts/lab/build.log"))" "see artifacts/lab/build.log"
    done
    lab_script "$folder" <<SCRIPT
worst=0
for test in $linux_side; do
    echo "Tidemark.\$test.Tests"
    # The matrix and the transports ask nothing of this kernel, and are long where every instruction is emulated.
    /usr/share/dotnet/dotnet exec /host/\$test/Tidemark.\$test.Tests.dll -noLogo -noColor \\
        -class- Tidemark.Machine.Tests.AssignmentMatrixTests -class- '*TransportTests' || worst=1
done
exit \$worst
SCRIPT
    LIMIT=${LIMIT:-2400} guest_run "${profile:-vtd-dirty}" "$folder" >"$folder/console.txt" 2>&1
    status=$?
    grep -aE '^Tidemark|Total:|\[FAIL\]' "$folder/console.txt"
    [ $status = 0 ] || say "the whole output is in $folder/console.txt"
    return $status
}

lab_machines() { # NAME: machines move through each interface of the kernel, or from process to process
    local folder status
    lab_program
    folder=$(lab_folder "$1")
    { echo "lab_run=$1"; cat "$lab/guest/machines.sh"; } | lab_script "$folder"
    LIMIT=${LIMIT:-1800} guest_run "${profile:-vtd-dirty}" "$folder" >"$folder/console.txt" 2>&1
    status=$?
    tr -d '\r' <"$folder/console.txt" | grep -aE '^machine '
    [ $status = 0 ] || say "the whole output is in $folder/console.txt"
    return $status
}

lab_demo() { # a machine moves from one process to another, each with a controller of its own
    local folder status
    lab_program
    folder=$(lab_folder demo)
    lab_script "$folder" <<'SCRIPT'
set -- $LAB_NVME
tidemark demo --kernel linux --device $1 --device $2 --memory 64MiB --report /host/report.html --json >/host/demo.json
SCRIPT
    LIMIT=${LIMIT:-1200} guest_run "${profile:-vtd-dirty}" "$folder" 2>&1 | tee "$folder/console.txt"
    status=${PIPESTATUS[0]}
    [ ! -s "$folder/demo.json" ] || cat "$folder/demo.json"
    return "$status"
}

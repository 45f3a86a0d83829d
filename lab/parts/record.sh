# Sourced by lab/run: recordings of the real kernel, which the tests replay on the soft one.

lab_record() { # boots each profile and writes what the cases did into the repository
    local profile_name folder status=0 code into=$root/tests/Tidemark.Conformance.Tests/Recordings
    lab_program
    for profile_name in ${profile:-mock mtty legacy vtd-dirty}; do
        folder=$(lab_folder "record-$profile_name")
        lab_script "$folder" <<SCRIPT
tidemark conform --kernel linux $device_options ${filter:+--filter '$filter'} --record /host/recordings/$profile_name --json >/host/linux.json 2>/host/errors.txt
SCRIPT
        guest_run "$profile_name" "$folder" >"$folder/console.txt" 2>&1
        code=$?
        case $code in
            0 | 1) ;;
            *) tail -n 15 "$folder/console.txt" "$folder/errors.txt" >&2; return $code ;;
        esac
        [ "$code" = 0 ] || { say "profile $profile_name: some cases failed and were not recorded; see $folder/linux.json"; status=1; }
        [ -n "$filter" ] || rm -rf "${into:?}/$profile_name"
        mkdir -p "$into/$profile_name"
        cp "$folder/recordings/$profile_name/"*.txt "$into/$profile_name/" || status=1
    done
    lab_thin "$into"
    "$root/tidemark" replay "$into" || status=1
    return $status
}

# Areas in which one host says what another says too are kept once.
lab_thin() { # FOLDER
    local area
    for area in destroy dispatch hwpt ioas-copy ioas-map ioas-unmap ioas options vfio-bind vfio-feature vfio-info vfio-irq attach; do
        [ ! -e "$1/vtd-dirty/$area.txt" ] && [ ! -e "$1/mock/$area.txt" ] || rm -f "$1"/{mtty,legacy}/"$area.txt"
    done
    rm -f "$1"/vtd-dirty/{legacy-*,mdev,mtty,migration-*,precopy-info}.txt "$1"/{mock,mtty}/legacy-*.txt
    for area in destroy dispatch ioas-copy options; do
        [ ! -e "$1/mock/$area.txt" ] || rm -f "$1/vtd-dirty/$area.txt"
    done
}

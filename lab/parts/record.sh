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
        [ -z "$filter" ] || lab_keep_the_others "$into/$profile_name" "$folder/recordings/$profile_name"
        cp "$folder/recordings/$profile_name/"*.txt "$into/$profile_name/" || status=1
    done
    lab_thin "$into"
    "$root/tidemark" replay "$into" || status=1
    return $status
}

# With a filter only some cases of an area were recorded: those of the area that were there before go behind them.
lab_keep_the_others() { # OLD-FOLDER NEW-FOLDER
    local new old
    for new in "$2"/*.txt; do
        old=$1/$(basename "$new")
        [ -e "$old" ] || continue
        awk '
            FNR == NR { if ($1 == "case" || $1 == "skipped") known[$2] = 1; next }
            !taken && $1 == "skipped" && !($2 in known) { print }
            $1 == "case" { taken = !($2 in known) }
            taken { print }
            $1 == "end" { taken = 0 }
        ' "$new" "$old" >"$new.old"
        cat "$new.old" >>"$new"
        rm "$new.old"
    done
}

# A case is kept once, from the first of these hosts that answered it: what several say alike is not read several times.
# What an IOMMU tells of itself is kept of each host.
lab_thin() { # FOLDER
    local profile_name file area seen=$1/seen
    : >"$seen"
    for profile_name in vtd-dirty mock legacy mtty; do
        for file in "$1/$profile_name"/*.txt; do
            [ -e "$file" ] || continue
            area=$(basename "$file" .txt)
            case $area in hw-info | iommu-kinds) continue ;; esac
            awk -v seen="$seen" '
                BEGIN { while ((getline name <seen) > 0) known[name] = 1; close(seen) }
                $1 == "skipped" { if (!($2 in known)) print; next }
                $1 == "case" { dropped = $2 in known; if (!dropped) print $2 >>seen }
                !dropped { print }
                $1 == "end" { dropped = 0 }
            ' "$file" >"$file.new"
            if grep -q '^case ' "$file.new"; then mv "$file.new" "$file"; else rm -f "$file.new" "$file"; fi
        done
    done
    rm -f "$seen"
}

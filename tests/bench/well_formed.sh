#!/bin/sh
# Are the files that the benchmarks write what they claim to be? sh tests/bench/well_formed.sh DIRECTORY
#
# python3 reads them where it is installed; else they are only looked over.
set -u
dir=$1
for policy in default keep; do
    for file in "$dir/$policy.json" "$dir/$policy.svg"; do
        [ -s "$file" ] || { echo "$file is missing or empty"; exit 1; }
    done
    if command -v python3 >/dev/null 2>&1; then
        python3 - "$dir/$policy" "$policy" <<'END' || exit 1
import json, sys
import xml.dom.minidom
report = json.load(open(sys.argv[1] + ".json"))
assert report["machine"]["policy"] == sys.argv[2], "policy"
assert len(report["rows"]) > 20, "rows"
for row in report["rows"]:
    assert any(side["name"] in ("sagemem", "this machine") for side in row["sides"]), row["name"]
    for side in row["sides"]:
        assert len(side["values"]) > 0 and None not in side["values"] and side["min"] <= side["median"], row["name"]
    for goal in row["goals"]:
        assert goal["is"] is not None or not goal["known"], row["name"]
assert xml.dom.minidom.parse(sys.argv[1] + ".svg").getElementsByTagName("circle") is not None
END
    else
        [ "$(tail -c 2 "$dir/$policy.json")" = '}' ] && grep -q '</svg>' "$dir/$policy.svg" || exit 1
    fi
done
if command -v python3 >/dev/null 2>&1; then
    python3 - "$dir/growth" <<'END' || exit 1
import json, sys
import xml.dom.minidom
curves = json.load(open(sys.argv[1] + ".json"))["curves"]
assert len(curves) > 10, "curves"
for curve in curves:
    assert len(curve["sagemem"]["ns"]) == len(curve["sizes"]) > 1 and None not in curve["sagemem"]["ns"], curve["name"]
xml.dom.minidom.parse(sys.argv[1] + ".svg")
END
fi
echo 'the benchmarks run, and what they write is well formed'

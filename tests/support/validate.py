"""Validates a bill of materials: python3 validate.py FIXTURES spdx|cyclonedx < DOCUMENT

Against the published JSON schemas, and for what they cannot say: ids are unique, and whatever is
named exists.
"""
import json
import sys

try:
    import jsonschema
except ImportError:
    sys.exit("python3 has no jsonschema; install python3-jsonschema (tests/run does)")

fixtures, form = sys.argv[1:]


def schema(name):
    with open(f"{fixtures}/{name}.schema.json", encoding="utf-8") as file:
        return json.load(file)


main = schema({"spdx": "spdx-2.3", "cyclonedx": "bom-1.6"}[form])
others = [schema(name) for name in ("spdx", "jsf-0.82")]
resolver = jsonschema.RefResolver.from_schema(main, store={other["$id"]: other for other in others})
document = json.load(sys.stdin)
errors = [
    f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
    for error in jsonschema.Draft7Validator(main, resolver=resolver).iter_errors(document)
]

if form == "spdx":
    lists = [document.get(name, []) for name in ("packages", "files", "snippets")]
    ids = ["SPDXRef-DOCUMENT"] + [one["SPDXID"] for some in lists for one in some]
    licenses = [one["licenseId"] for one in document.get("hasExtractedLicensingInfos", [])]
    named = [
        one[key]
        for one in document.get("relationships", [])
        for key in ("spdxElementId", "relatedSpdxElement")
        if not one[key].startswith(("DocumentRef-", "NO"))
    ]
    named += [one["snippetFromFile"] for one in document.get("snippets", [])]
else:
    licenses, named = [], []
    ids = [document["metadata"]["component"]["bom-ref"]]
    some = list(document["components"])
    while some:
        one = some.pop()
        ids.append(one["bom-ref"])
        some += one.get("components", [])

for many in ids, licenses:
    errors += [f"{one} stands there twice" for one in set(many) if many.count(one) > 1]
errors += [f"{one} is named and does not exist" for one in named if one not in ids]
sys.exit("\n".join(errors) or 0)

"""Whether JSON files are as a schema says: python3 tests/schema.py SCHEMA FILE...

The part of JSON Schema that the schemas in tests/data use; a word it does not know is an error, not a pass.
"""
import json
import sys

WORDS = {"$schema", "title", "type", "properties", "required", "additionalProperties", "items", "const", "enum", "minimum", "oneOf"}
TYPES = {"object": dict, "array": list, "string": str, "integer": int}


def check(value, schema, at):
    """Yields what is wrong."""
    for word in schema.keys() - WORDS:
        raise SystemExit("the schema has %r, which is not known here" % word)
    if "type" in schema and (not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool)):
        yield "%s is no %s" % (at, schema["type"])
        return
    if "const" in schema and value != schema["const"]:
        yield "%s is %r, not %r" % (at, value, schema["const"])
    if "enum" in schema and value not in schema["enum"]:
        yield "%s is %r, none of %r" % (at, value, schema["enum"])
    if "minimum" in schema and value < schema["minimum"]:
        yield "%s is %r, less than %r" % (at, value, schema["minimum"])
    if "oneOf" in schema and sum(not list(check(value, one, at)) for one in schema["oneOf"]) != 1:
        yield "%s is not exactly one of %r" % (at, schema["oneOf"])
    for name in schema.get("required", []):
        if name not in value:
            yield "%s has no %r" % (at, name)
    if isinstance(value, dict) and "properties" in schema:
        for name, member in value.items():
            if name in schema["properties"]:
                yield from check(member, schema["properties"][name], at + "." + name)
            elif schema.get("additionalProperties") is False:
                yield "%s has %r, which the schema does not know" % (at, name)
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from check(item, schema["items"], "%s[%d]" % (at, i))


def no_twice(pairs):
    if len({name for name, _ in pairs}) != len(pairs):
        raise SystemExit("a name comes twice in %r" % [name for name, _ in pairs])
    return dict(pairs)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        schema = json.load(file)
    wrong = []
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            wrong += check(json.load(file, object_pairs_hook=no_twice), schema, path)
    print("\n".join(wrong))
    return 1 if wrong else 0


sys.exit(main())

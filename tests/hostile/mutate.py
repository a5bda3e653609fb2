"""Mutations of bytes, JSON, protobuf messages and command lines, all from a `random.Random`."""

import json
from copy import deepcopy

WORDS = ["", "\x1b[2J\n", "x", "../secret", "/etc/hostname", "a/../../secret", "\0", "é", "x" * 10_000, "%s%n", "nan",
         "-1", "1e400"]
NAMES = ["n", "\x1b[2J", "a\nb", "\r", "\u202e", "\x9b2J", "\0", "x" * 300, "😀", "%s", "[red]", "é"]
NUMBERS = [0, 1, -1, 2, 7, 255, 2**31 - 1, -2**31, 2**31, 2**32, 2**63 - 1, -2**63]
JSONS = [None, True, [], {}, [[]], "", 10**400, 1e308, -1e-308, float("nan"), float("inf"), *NUMBERS, *WORDS]


def of_bytes(rng, data):
    """The bytes after one to four cuts, copies, flips and overwritten integers."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([1, 2, 4, 8, 64, 1000]))
        match rng.randrange(5):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = data[rng.randrange(len(data) + 1):][:end - at]
            case 2:
                data[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case 3 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case _:
                number = rng.choice(NUMBERS).to_bytes(8, "little", signed=True)
                data[at:at + 4] = number[:4]
    return bytes(data)


def of_json(rng, data):
    """The JSON document with one to three of its values replaced, removed or repeated."""
    document = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        holder = [document]
        place = 0
        while isinstance(holder[place], list | dict) and holder[place] and rng.random() < 0.8:
            holder = holder[place]
            place = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if holder == [document]:
            continue
        match rng.randrange(4):
            case 0:
                del holder[place]
            case 1 if isinstance(holder, list):
                holder.insert(place, deepcopy(holder[place]))
            case _:
                holder[place] = deepcopy(rng.choice(JSONS))
    return json.dumps(document).encode()


def of_message(rng, message):
    """Changes one to three fields anywhere in a protobuf message, in place."""
    for _ in range(rng.randint(1, 3)):
        _mutate_field(rng, _descend(rng, message))


def _descend(rng, message):
    """A random message within the message."""
    while rng.random() < 0.85:
        inner = [each for field, value in message.ListFields() if field.type == field.TYPE_MESSAGE
                 for each in (value if field.is_repeated else [value])]
        if not inner:
            break
        message = rng.choice(inner)
    return message


def _mutate_field(rng, message):
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.random() < 0.8 else message.DESCRIPTOR.fields)
    if field.type == field.TYPE_MESSAGE or rng.random() < 0.2:
        if field.is_repeated and rng.random() < 0.5 and len(values := getattr(message, field.name)):
            copy = rng.choice(list(values))
            values.append(copy)
        else:
            message.ClearField(field.name)
    elif field.is_repeated:
        values = list(getattr(message, field.name))
        values[rng.randrange(len(values) + 1):][:1] = [_scalar(rng, field)]
        del getattr(message, field.name)[:]
        getattr(message, field.name).extend([*values, _scalar(rng, field)])
    else:
        setattr(message, field.name, _scalar(rng, field))


def _scalar(rng, field):
    """A value that the field can hold."""
    kinds = {field.CPPTYPE_STRING: lambda: rng.choice(WORDS), field.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
             field.CPPTYPE_FLOAT: lambda: rng.choice([0.0, -1.0, float("nan"), float("inf")]),
             field.CPPTYPE_DOUBLE: lambda: rng.choice([0.0, -1.0, float("nan"), float("inf")])}
    if field.type == field.TYPE_BYTES:
        return rng.choice(WORDS).encode()
    if field.cpp_type in kinds:
        return kinds[field.cpp_type]()
    if field.cpp_type == field.CPPTYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.cpp_type in (field.CPPTYPE_UINT64, field.CPPTYPE_UINT32):
        return abs(rng.choice(NUMBERS)) % 2**32
    bits = 32 if field.cpp_type == field.CPPTYPE_INT32 else 64
    return max(-2**(bits - 1), min(2**(bits - 1) - 1, rng.choice(NUMBERS)))

"""A part that every machine of a cluster can run, and how often it has been run in this process."""

CALLS = []


def squared(number):
    CALLS.append(number)
    return {"square": number * number}

"""The table of a set's classes, `classes.csv`, and masks in colours."""
import csv
import io

CLASS_TABLE = "classes.csv"  # the name of the table in the set's folder


def list_classes(numbers):
    """A table of classes as text: columns class, name.  numbers: {name: 1, ...}."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("class", "name"), (0, "background")])
    writer.writerows((number, name) for name, number in numbers.items())
    return text.getvalue()

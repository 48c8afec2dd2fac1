"""A net's answer: logits, classes, objects; to files and back; scores; shown in colour."""

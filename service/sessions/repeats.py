"""Recognise repeats: an append or an operation that was sent again because its answer was lost."""


class Repeats:
    """What a session remembers of its last operations. For the event loop's thread.

    xxh3-128 digests of k, v and positions of the last append, for each layer and row; forgotten
    when the generation rises. Answers of the last 16 operations with an `op_id`, tensors excepted.
    """

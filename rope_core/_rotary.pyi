MAX_WIDTH: int

class TokenRotation:
    def __new__(
        cls,
        cos: int,
        sin: int,
        num_rows: int,
        num_pairs: int,
        num_heads: int,
        head_dim: int,
        start: int,
        dtype: int,
        interleaved: bool,
        inverse: bool,
        num_threads: int,
        owner: object,
        /,
    ) -> TokenRotation: ...
    def run(self, x: int, out: int, positions: int, num_tokens: int, /) -> float: ...

def rotate(
    cos: int,
    sin: int,
    num_rows: int,
    num_pairs: int,
    num_heads: int,
    head_dim: int,
    start: int,
    dtype: int,
    interleaved: bool,
    inverse: bool,
    num_threads: int,
    x: int,
    x_token_stride: int,
    x_head_stride: int,
    out: int,
    out_token_stride: int,
    out_head_stride: int,
    num_tokens: int,
    /,
) -> float: ...
def max_abs(address: int, num_elements: int, dtype: int, /) -> float: ...

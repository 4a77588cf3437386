"""Numbers as the figures write them."""

THIN_SPACE = "\u2009"
MINUS = "\u2212"
TIMES = "\u2009\u00d7\u2009"
SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


def number_text(number: float) -> str:
    """Write a number with thin spaces between thousands, four significant digits of a fraction."""
    if number == int(number) and abs(number) < 1e9:
        return f"{int(number):,}".replace(",", THIN_SPACE).replace("-", MINUS)
    mantissa, exponential, exponent = f"{number:.4g}".replace("-", MINUS).partition("e")
    if not exponential:
        return mantissa
    power = str(int(exponent.replace(MINUS, "-"))).translate(SUPERSCRIPTS)
    return f"{mantissa}{TIMES}10{power}"


def decade_text(number: float) -> str:
    """Write a label of a logarithmic axis: 10⁻⁵, 0.01, 1 000, 10 k, 1 M."""
    for unit, letter in UNITS:
        if number >= unit:
            divisor = 1e3 if letter == "k" else unit
            return f"{number_text(round(number / divisor, 6))}{THIN_SPACE}{letter}"
    text = number_text(number)
    return text.removeprefix(f"1{TIMES}")

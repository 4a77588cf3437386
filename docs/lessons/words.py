"""The words in the figures of the lessons, and the same in Chinese."""

from collections.abc import Callable

Words = Callable[[str], str]
"""Returns a text of a figure in the language of the page."""

ZH = {
    "The unit circle, with cosine and sine unrolled beside it": "单位圆，以及展开成曲线的余弦和正弦",
    "real": "实轴",
    "imaginary": "虚轴",
    "A vector before and after a turn, and three ways to compute it": "旋转前后的向量，以及三种算法",
    "complex product": "复数乘法",
    "2 × 2 matrix": "2 × 2 矩阵",
    "element by element": "逐元素计算",
    "length before and after: 2.2361": "旋转前后的长度都是 2.2361",
    "A query at position 11, a key at position 5, and their score": "位置 11 的 query、位置 5 的 key，以及它们的得分",
    "query at m = 11": "query：位置 m = 11",
    "key at n = 5": "key：位置 n = 5",
    "score, while m runs from 0 to 64": "m 从 0 到 64 时的得分",
    "both move: level": "一起移动：水平线",
    "the key stays: it swings": "key 不动：上下摆动",
    "Eight of 64 clocks at position 100, and a block-diagonal matrix": "位置 100 时 64 个时钟中的 8 个，以及分块对角矩阵",
    "pair": "分量对",
    "position 100: each pair has turned at its own speed": "位置 100：每一对各按自己的速度转动",
    "R at position 1, first four pairs of a head of 8": "宽度为 8 的注意力头：位置 1 处的 R，共四对",
    "Score of 64 pairs by distance: equal vectors, and random ones": "64 对分量的得分与距离：相同的向量和随机的向量",
    "q = k: highest where it is": "q = k：距离 0 处最高",
    "six random q and k: no decay": "六组随机的 q 和 k：并不衰减",
    "distance": "距离",
    "Positions for one turn of each pair, for four ways to stretch": "四种拉伸方法：每对分量转一圈需要的位置数",
    "trained": "训练长度",
    "allowed": "允许长度",
    "positions for one turn": "转一圈的位置数",
    "Two turns of a cube in two orders": "立方体按两种次序转动两次",
    "first about x, then about y": "先绕 x 轴，再绕 y 轴",
    "first about y, then about x": "先绕 y 轴，再绕 x 轴",
    "start": "起点",
    "step 1": "第一步",
    "step 2": "第二步",
    "not the same end": "终点不同",
}

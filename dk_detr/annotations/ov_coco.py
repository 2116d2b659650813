"""The categories of OV-COCO: 48 base and 17 novel. The other 15 of COCO have no part in it.

Bansal et al. (ECCV 2018) drew the split, OVR-CNN (CVPR 2021) made it the benchmark; spellings are COCO's. Base boxes
are for training; novel ones are found, or not, among both ("generalized").
"""

BASE = {
    "person": 1, "bicycle": 2, "car": 3, "motorcycle": 4, "train": 7, "truck": 8, "boat": 9, "bench": 15, "bird": 16,
    "horse": 19, "sheep": 20, "bear": 23, "zebra": 24, "giraffe": 25, "backpack": 27, "handbag": 31, "suitcase": 33,
    "frisbee": 34, "skis": 35, "kite": 38, "surfboard": 42, "bottle": 44, "fork": 48, "spoon": 50, "bowl": 51,
    "banana": 52, "apple": 53, "sandwich": 54, "orange": 55, "broccoli": 56, "carrot": 57, "pizza": 59, "donut": 60,
    "chair": 62, "bed": 65, "toilet": 70, "tv": 72, "laptop": 73, "mouse": 74, "remote": 75, "microwave": 78,
    "oven": 79, "toaster": 80, "refrigerator": 82, "book": 84, "clock": 85, "vase": 86, "toothbrush": 90,
}  # fmt: skip
NOVEL = {
    "airplane": 5, "bus": 6, "cat": 17, "dog": 18, "cow": 21, "elephant": 22, "umbrella": 28, "tie": 32,
    "snowboard": 36, "skateboard": 41, "cup": 47, "knife": 49, "cake": 61, "couch": 63, "keyboard": 76, "sink": 81,
    "scissors": 87,
}  # fmt: skip
"""Name -> id in COCO's annotation files."""

#!/usr/bin/env python3
"""Make the split files of a benchmark from the official annotation files, and check data sets.

    tools/prepare_dataset.py lvis-norare     # lvis/lvis_v1_train.json -> lvis/lvis_v1_train_norare.json
    tools/prepare_dataset.py lvis-minival    # lvis/lvis_v1_val.json -> lvis/lvis_v1_minival.json
    tools/prepare_dataset.py ov-coco         # coco/annotations/instances_{train,val}2017.json -> coco/zero-shot/
    tools/prepare_dataset.py voc             # VOC2007/Annotations -> VOC2007/voc_2007_test.json
    tools/prepare_dataset.py objects365      # objects365/annotations/zhiyuan_objv2_val.json -> …_val_fixname.json
    tools/prepare_dataset.py custom --source mine.json --output parts/ --novel "x,y"
    tools/prepare_dataset.py check lvis_v1_val

Files are looked for below DETECTRON2_DATASETS, and named where the data sets of this project expect them.
"""

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.prepare_dataset import main, make_parser

if __name__ == "__main__":
    main(make_parser(__doc__).parse_args())

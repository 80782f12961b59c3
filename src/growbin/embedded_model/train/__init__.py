"""How the embedded model's file is made, from photos: `python -m growbin.embedded_model.train`, which `make
train` calls.

Needs what requirements/train.in names (PyTorch is used nowhere else), and nothing here is needed to run
growbin. The steps, each kept in the work folder, so that a stopped run goes on where it was:

    collections   the photos, by collection, with the materials that their labels allow
    views         each photo drawn anew some times, through the lower half of the network, which stays as it
    is tune          the upper half learns materials, and keeps its object names
    calibrate     what the two say together, and how sure that is: measured on collections that were left out
    graph         the ONNX file;  report: its figures and pictures
"""

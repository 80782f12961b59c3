"""What a photo's file says of itself, by a walk over its markers that costs next to nothing beside decoding.

walk     the noun, and what the walks share     jpeg · png · webp · heif     one walk for each type
by_type  the type by the first bytes, and the walk that reads it
"""

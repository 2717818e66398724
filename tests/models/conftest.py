from tiny_wheel import index

__all__ = ["index"]
